"""Runs on a SLURM cluster: profiles, job scripts, the queue, and the reaction of a job to interruptions."""
