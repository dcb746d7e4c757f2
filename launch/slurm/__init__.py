"""The same plan on a SLURM cluster: profiles, job scripts, the queue, and what a job does when it is interrupted."""
