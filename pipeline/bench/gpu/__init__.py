"""The first minutes on a GPU: one command, a process for each row, and what each leaves. Imports no torch."""
