"""A table is a folder of Parquet parts, one part per chunk; the names of the parts depend only on the input.

    <table>/_table.json                           which fingerprint of each producer is current
    <table>/<producer>-<fingerprint>/_plan.json   the chunks, fixed when the table was created
    <table>/…/_plan/2.json, <table>/_table/2.json newer versions of these two, after a change; the newest counts
    <table>/<producer>-<fingerprint>/<input part>.<k>.parquet      one finished chunk
    <table>/<producer>-<fingerprint>/<input part>.<k>.r1.parquet   a retry of its error rows
    <table>/<producer>-<fingerprint>/<input part>.<k>.e1.parquet   the chunk after its input was replaced once
    <table>/<producer>-<fingerprint>/_run/        resolved config, metrics.jsonl, summary of the last run

Names that start with `_` are never data. The pending chunks are those without a part in the folder; progress is not
recorded anywhere else.
"""

from raysys.tables.commit import PartialChunkError, commit_part
from raysys.tables.plan import Chunk, InputPart, Output, open_output
from raysys.tables.read import TableView, open_table
from raysys.tables.store import Store

__all__ = [
    "Chunk",
    "InputPart",
    "Output",
    "PartialChunkError",
    "Store",
    "TableView",
    "commit_part",
    "open_output",
    "open_table",
]
