"""What every process needs: its rank, its group, seeds, errors, cores. Never imports another package of the project."""
