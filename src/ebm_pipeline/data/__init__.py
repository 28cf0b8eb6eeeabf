"""Images: read from files of any usual format, checked, split, transformed and brought in batches.

What is written here is HDF5: train/images, train/labels, test/images, test/labels. Images (count, units) or (count, height,
width) of any type of numbers; attribute image_shape (height, width); labels optional, integers.
"""

from ebm_pipeline.data.batches import BatchLoader, EpochOrder
from ebm_pipeline.data.dataset import DataSet, load

__all__ = ["BatchLoader", "DataSet", "EpochOrder", "load"]
