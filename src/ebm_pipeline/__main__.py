"""`python -m ebm_pipeline`: which commands there are."""

from ebm_pipeline.runs.help import overview

print(overview())
