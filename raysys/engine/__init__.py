"""The only package that imports ray: map a stage over chunks, train, and say which cluster is used."""
