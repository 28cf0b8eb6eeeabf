"""All pictures. Knows arrays and shapes only; every function returns a matplotlib figure made without pyplot."""

from ebm_pipeline.plots.chains import (
    approach_of_chains,
    energy_traces,
    log_partition_estimates,
    moments,
    samples_against_data,
)
from ebm_pipeline.plots.charts import (
    Curves,
    Panels,
    against_settings,
    class_shares,
    learning_curves,
    unit_values,
)
from ebm_pipeline.plots.files import PNG, Files, save
from ebm_pipeline.plots.frame import DPI, to_rgb
from ebm_pipeline.plots.maps import MOST_NUMBERED, confusion_matrix, heat_maps, matrices, value_map
from ebm_pipeline.plots.mosaics import (
    chains_by_sweeps,
    comparison,
    data_examples,
    image_grid,
    weight_grid,
    weights_side_by_side,
)

__all__ = [
    "DPI",
    "MOST_NUMBERED",
    "PNG",
    "Curves",
    "Files",
    "Panels",
    "against_settings",
    "approach_of_chains",
    "chains_by_sweeps",
    "class_shares",
    "comparison",
    "confusion_matrix",
    "data_examples",
    "energy_traces",
    "heat_maps",
    "image_grid",
    "learning_curves",
    "log_partition_estimates",
    "matrices",
    "moments",
    "samples_against_data",
    "save",
    "to_rgb",
    "unit_values",
    "value_map",
    "weight_grid",
    "weights_side_by_side",
]
