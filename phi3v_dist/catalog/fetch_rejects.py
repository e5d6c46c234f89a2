"""What became of every picture of the product table, and a row for each that could not be fetched.

Enters: the table, once more, and the verdicts. Leaves: ``rejects.parquet`` in the folder of fetched pictures, with the
columns of the shards' own, and counts that add up to the pictures of the table. Written row group by row group.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import batched
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from phi3v_dist.catalog.fetch_state import FetchState
from phi3v_dist.catalog.fetched import is_url
from phi3v_dist.catalog.tables import RawRow, read_table
from phi3v_dist.config.options import CatalogOptions
from phi3v_dist.files import atomic_path
