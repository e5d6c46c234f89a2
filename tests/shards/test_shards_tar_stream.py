"""The tar file that webdataset writes, byte by byte, and offsets that are those of ``tarfile``."""

import io
import tarfile

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from webdataset.writer import TarWriter

from phi3v_dist.shards.tar_stream import TarStream

SAMPLES = st.lists(st.lists(st.binary(max_size=3000), min_size=1, max_size=4), max_size=8)


@settings(max_examples=50, deadline=None)
@given(SAMPLES)
def test_bytes_are_those_of_webdataset_and_offsets_those_of_tarfile(samples) -> None:
    theirs, ours = io.BytesIO(), io.BytesIO()
    tar, offsets = TarStream(ours), []
    with TarWriter(theirs, encoder=False, mtime=0) as writer:
        for number, contents in enumerate(samples):
            members = {f"{place:02d}.jpg": content for place, content in enumerate(contents)}
            writer.write({"__key__": f"P{number}", **members})
            offsets += [tar.add(f"P{number}.{kind}", content) for kind, content in members.items()]
    found = tar.end()
    assert ours.getvalue() == theirs.getvalue()
    assert (found, tar.num_bytes) == (xxhash.xxh3_128_hexdigest(theirs.getvalue()), len(theirs.getvalue()))
    ours.seek(0)
    with tarfile.open(fileobj=ours) as read:
        assert [member.offset_data for member in read] == offsets


@pytest.mark.parametrize("name", ["x" * 101, "ß.jpg"])
def test_a_name_that_would_need_an_extra_header_is_refused(name) -> None:
    with pytest.raises(ValueError, match=r"name is too long|ordinal not in range"):
        TarStream(io.BytesIO()).add(name, b"")


def test_a_member_that_a_header_cannot_tell_the_size_of_is_refused() -> None:
    class Long(bytes):
        def __len__(self) -> int:
            return 8**11

    with pytest.raises(ValueError, match="too large"):
        TarStream(io.BytesIO()).add("x", Long())
