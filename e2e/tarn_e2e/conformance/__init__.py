"""Yardsticks: the same requests, commands and suites on the real nats-server and on `tarn broker`."""
