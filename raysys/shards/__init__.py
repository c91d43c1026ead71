"""Read image–caption shards into SAMPLES rows, and read the image of a row.

    inputs.list_inputs → ingest.ingest_rows → SAMPLES → images.read_images (later stages)

A source (webdataset, parquet, folder, index) yields `raw.RawItem`s; `ingest` judges them with `decode` and `licenses`.
"""
