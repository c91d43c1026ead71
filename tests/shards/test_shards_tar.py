"""The tar index agrees with tarfile and webdataset on good tars, and neither trusts nor loses anything on bad ones."""

import io
import tarfile

import pytest
import webdataset

from raysys.shards.files import open_source
from raysys.shards.tar import index_tar


def add(tar, name, data=b"x", **fields):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    tar.addfile(info, io.BytesIO(data))


def write(path, members, fmt=tarfile.GNU_FORMAT):
    with tarfile.open(path, "w", format=fmt) as tar:
        for name, data in members:
            add(tar, name, data)
    return path


def index(path):
    source = open_source(str(path))
    try:
        return index_tar(source)
    finally:
        source.close()


def contents(path):
    """[(key, {extension: bytes})] by our offsets."""
    data = path.read_bytes()
    return [(i.key, {m.extension: data[m.offset : m.offset + m.size] for m in i.members}) for i in index(path)]


SAMPLES = [(f"part/{i:04d}", {"jpg": bytes([i]) * (i * 100), "txt": b"%d" % i, "cls.json": b"{}"}) for i in range(20)]


@pytest.mark.parametrize("fmt", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_same_samples_and_bytes_as_were_written(tmp_path, fmt):
    members = [(f"{key}.{extension}", data) for key, parts in SAMPLES for extension, data in parts.items()]
    assert contents(write(tmp_path / "a.tar", members, fmt)) == SAMPLES


@pytest.mark.parametrize("fmt", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names(tmp_path, fmt):
    keys = ["a/" + "long" * 60, "ümläut/画像", "x" * 99, "d" * 150 + "/" + "f" * 90]
    path = write(tmp_path / "a.tar", [(f"{k}.jpg", k.encode()) for k in keys], fmt)
    assert contents(path) == [(k, {"jpg": k.encode()}) for k in keys]


def test_grouping_is_that_of_the_webdataset_library(tmp_path):
    members = [
        ("a.jpg", b"1"),
        ("a.txt", b"2"),
        ("dir.with.dots/b.seg.png", b"3"),
        ("dir.with.dots/b.JPG", b"4"),
        ("README", b"no extension"),
        ("__meta__/x.json", b"meta"),
        ("c.jpg", b"5"),
        ("dir.with.dots/b.txt", b"6"),  # not consecutive: another sample under the same key
    ]
    path = write(tmp_path / "a.tar", members)
    theirs = [
        {k: v for k, v in sample.items() if not k.startswith("__")} | {"key": sample["__key__"]}
        for sample in webdataset.WebDataset(str(path), shardshuffle=False)
    ]
    ours = [{m.extension: path.read_bytes()[m.offset : m.offset + m.size] for m in i.members} for i in index(path)]
    assert [o | {"key": i.source_key} for o, i in zip(ours, index(path), strict=True)] == theirs
    assert [i.key for i in index(path)] == ["a", "dir.with.dots/b", "c", "dir.with.dots/b#2"]


def test_hidden_files_as_macos_adds_them_are_no_samples(tmp_path):
    """`webdataset` makes a sample with the key "dir/" of them."""
    path = write(tmp_path / "a.tar", [("dir/._a.jpg", b"resource fork"), ("dir/a.jpg", b"1")])
    assert contents(path) == [("dir/a", {"jpg": b"1"})]


def test_repeated_keys_get_unique_names_and_lose_nothing(tmp_path):
    members = [("a.jpg", b"1"), ("a.jpg", b"2"), ("a#2.jpg", b"3"), ("a.jpg", b"4"), ("b.jpg", b"5"), ("a.jpg", b"6")]
    items = contents(write(tmp_path / "a.tar", members))
    assert [parts["jpg"] for _, parts in items] == [data for _, data in members]
    assert len({key for key, _ in items}) == len(members)
    assert items[0][0] == "a"


def test_cut_at_every_place_conserves_whole_samples_and_adds_one_error(tmp_path):
    """Whatever the length that is left: all samples before the cut, then one error item with the bytes left."""
    members = [(f"{i}.{e}", bytes([65 + i]) * 700) for i in range(4) for e in ("jpg", "txt")]
    whole = write(tmp_path / "whole.tar", members).read_bytes()
    ends = 4 * 2 * (512 + 1024)
    path = tmp_path / "cut.tar"
    for length in [*range(1, ends, 171), ends - 1, ends]:
        path.write_bytes(whole[:length])
        items = index(path)
        assert items[-1].broken is not None, length
        assert items[-1].broken[0] == "truncated_shard"
        assert "left" in items[-1].broken[1]
        assert [i for i in items[:-1] if i.broken] == []
        # A sample is whole when the data of its last member are there.
        n_whole = sum(length >= (2 * k + 1) * 1536 + 512 + 700 for k in range(4))
        named = {i.source_key for i in items[:-1] if len(i.members) == 2}
        assert named == {str(k) for k in range(n_whole)}, length
        assert len({i.key for i in items}) == len(items)
    path.write_bytes(whole[: ends + 512])  # one zero block is an end: some writers stop there
    assert [i.broken for i in index(path)] == [None] * 4


def test_size_beyond_the_end_is_one_error_item(tmp_path):
    path = write(tmp_path / "a.tar", [("a.jpg", b"1"), ("b.jpg", b"2")])
    data = bytearray(path.read_bytes())
    header = data[1024:1536]
    header[124:136] = b"\x80" + (2**60).to_bytes(11, "big")  # base 256
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    data[1024:1536] = header
    path.write_bytes(data)
    good, bad = index(path)
    assert good.broken is None
    assert bad.source_key == "b"
    assert bad.broken[0] == "truncated_shard"
    assert f"claims {2**60} bytes" in bad.broken[1]


def test_garbage_inside_is_one_corrupt_item(tmp_path):
    path = write(tmp_path / "a.tar", [("a.jpg", b"1"), ("b.jpg", b"2"), ("c.jpg", b"3")])
    data = bytearray(path.read_bytes())
    data[1024 + 5] ^= 1  # the name in b's header: its checksum is wrong now
    path.write_bytes(data)
    items = index(path)
    assert [i.source_key for i in items] == ["a", "(end)"]
    assert items[-1].broken == ("corrupt_shard", f"no tar header at byte 1024, {len(data) - 1024} bytes left")
    path.write_bytes(b"<html>not found</html>" * 100)
    assert [i.broken[0] for i in index(path)] == ["corrupt_shard"]
    path.write_bytes(b"")
    assert [i.broken[0] for i in index(path)] == ["truncated_shard"]


def test_archives_joined_with_cat_are_read_to_the_end(tmp_path):
    one = write(tmp_path / "1.tar", [("a.jpg", b"1")]).read_bytes()
    two = write(tmp_path / "2.tar", [("b.jpg", b"2")]).read_bytes()
    (tmp_path / "both.tar").write_bytes(one + two)
    assert [key for key, _ in contents(tmp_path / "both.tar")] == ["a", "b"]


def test_path_tricks_links_and_devices_are_refused(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        add(tar, "/etc/abs.jpg")
        add(tar, "../up.jpg")
        add(tar, "a/../../b.jpg")
        add(tar, "c\\d.jpg")
        add(tar, "link.jpg", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        add(tar, "hard.jpg", b"", type=tarfile.LNKTYPE, linkname="good.jpg")
        add(tar, "dev.jpg", b"", type=tarfile.CHRTYPE)
        add(tar, "fifo.jpg", b"", type=tarfile.FIFOTYPE)
        add(tar, "folder.jpg", b"", type=tarfile.DIRTYPE)
        add(tar, "ok..name.jpg")
        add(tar, "good.jpg")
    items = index(path)
    assert [i.source_key for i in items if not i.members[0].refused] == ["ok", "good"]
    refused = [i.members[0].refused for i in items if i.members[0].refused]
    absolute, outside = "absolute or foreign path", "path leads out of the folder"
    assert refused[:4] == [absolute, outside, outside, absolute]
    assert refused[4:] == ["symbolic link", "hard link", "device", "pipe"]


def test_sparse_files_and_huge_header_records_are_refused(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("a.jpg")
        info.size, info.pax_headers = 1, {"GNU.sparse.major": "1"}
        tar.addfile(info, io.BytesIO(b"x"))
    assert index(path)[0].members[0].refused == "sparse"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("a.jpg")
        info.pax_headers = {"comment": "x" * (2 << 20)}
        tar.addfile(info)
    assert index(path)[0].broken[0] == "corrupt_shard"
