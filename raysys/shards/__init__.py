"""Image–caption shards → SAMPLES rows, and from a row back to its image.

    inputs.list_inputs → ingest.ingest_rows → SAMPLES → images.read_images (later stages)

A source (webdataset, parquet, folder, index) yields `raw.RawItem`s; `ingest` judges them with `decode` and `licenses`.
"""
