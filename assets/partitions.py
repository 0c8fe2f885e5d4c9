"""How the assets are cut: by source, by recipe, by policy."""

import dagster as dg

from training.recipes import RECIPES

# Sources come from a file that its owner edits, so their names are kept in the Dagster instance.
SOURCES = dg.DynamicPartitionsDefinition(name="source")
RECIPE_NAMES = dg.StaticPartitionsDefinition(list(RECIPES))
POLICIES = dg.StaticPartitionsDefinition(["base", "cold_start", *RECIPES])
