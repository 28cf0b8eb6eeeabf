"""Images as HDF5: where they come from, how they are checked, split, transformed and brought in batches.

One format: train/images, train/labels, test/images, test/labels. Images (count, units) or (count, height, width), uint8 or
finite float32; attribute image_shape (height, width); labels optional, integers.
"""

from ebm_pipeline.data.dataset import BatchLoader, DataSet, EpochOrder, load

__all__ = ["BatchLoader", "DataSet", "EpochOrder", "load"]
