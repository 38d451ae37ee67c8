"""What the demo reads out of texts."""

from pydantic import BaseModel, Field


class Ingredient(BaseModel):
    """One line of a recipe's list of ingredients."""

    name: str = Field(description="What it is, without amount and preparation.")
    quantity: float | None = Field(description="The first amount, or the low end of a range; a dozen is 12.")
    quantity_max: float | None = Field(description="The high end where the text gives a range.")
    other_quantities: list[float] = Field(description="Further amounts in the order of the text.")
    unit: str | None = Field(description="What the amount counts, in the singular; size words count as units.")
    preparation: str | None = Field(description="What is done to it beforehand, e.g. 'finely chopped'.")
    comment: str | None = Field(description="What else the line says.")


class Step(BaseModel):
    """One step of a recipe."""

    text: str = Field(description="What to do.")
    minutes: float | None = Field(description="How long it takes, where the text says so.")


class Recipe(BaseModel):
    """A whole recipe."""

    title: str = Field(description="The dish.")
    servings: int | None = Field(description="For how many people it is.")
    ingredients: list[Ingredient] = Field(description="The ingredients in the order of the text.")
    steps: list[Step] = Field(description="The steps in their order.")
