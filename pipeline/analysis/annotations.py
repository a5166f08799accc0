"""Reads COCO annotations and checks that they have what an evaluation needs."""

from __future__ import annotations

import json
import os
from typing import Any

from pipeline.errors import InputError
from pipeline.storage import Place, explain, place

Json = dict[str, Any]
REQUIRED = {
    "images": ("id", "file_name", "width", "height"),
    "annotations": ("image_id", "category_id"),
    "categories": ("id", "name"),
}
EXPECTED = "expected COCO instances (images, annotations, categories)"


def read_annotations(annotations: str | os.PathLike[str], output: Place) -> Json:
    """Reads COCO instances JSON.

    Args:
        annotations: path or URL of the file.
        output: its storage options are used if the file is on the same kind of store.

    Returns:
        The content: `images`, `annotations` and `categories`, each a list of records with the keys `REQUIRED`.

    Raises:
        InputError: the file cannot be read, is not JSON or is not COCO instances.
    """
    file = place(annotations)
    file = Place(file.url, output.options) if file.protocol == output.protocol else file
    try:
        content = json.loads(file.fs.cat_file(file.path))
    except ValueError:
        raise InputError(f"{file.url} is not JSON: {EXPECTED}") from None
    except Exception as error:  # the error type depends on the store
        raise explain(file.url, error) from None
    for name, keys in REQUIRED.items():
        if not isinstance(content, dict) or not isinstance(content.get(name), list):
            raise InputError(f"{file.url} has no list {name!r}: {EXPECTED}")
        for record in content[name]:
            if missing := [k for k in keys if k not in record]:
                raise InputError(f"{file.url}: a record of {name!r} has no {missing[0]!r} ({str(record)[:80]})")
    return content
