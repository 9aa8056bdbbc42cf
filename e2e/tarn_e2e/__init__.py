"""End-to-end runs of Tarn with unmodified clients and engines."""
