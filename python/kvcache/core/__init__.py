"""Bookkeeping of pages; knows no torch and no MAX."""
