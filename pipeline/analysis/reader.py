"""Reads the results of an output as a pyarrow dataset."""

from __future__ import annotations

import pyarrow.dataset as pads

from pipeline.output.output_files import complete_results
from pipeline.schema import RESULTS
from pipeline.storage import Place


def results_dataset(output: Place) -> pads.Dataset:
    """Opens the results as one dataset in the schema `RESULTS`. Rows are read only when the dataset is.

    Raises:
        InputError: there are no results yet, this is not an output, or it cannot be read.
    """
    paths = [file.path for file in complete_results(output)]
    return pads.dataset(paths, schema=RESULTS, filesystem=output.arrow(), format="parquet")
