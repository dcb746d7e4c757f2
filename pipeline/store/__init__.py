"""How results are written whole: files, seals, journals and locks."""
