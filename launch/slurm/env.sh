# Sourced by every job on its first node: what all its processes share. Settings for the site's network (NCCL_SOCKET_IFNAME
# and the like) belong into the profile's setup lines.

# Tasks need this shell's environment also where a site lets none into jobs (SBATCH_EXPORT=NONE).
export SLURM_EXPORT_ENV=ALL

# As `module_environment` has it: an empty entry stands for the working directory, which has modules of its own; the
# packages of an installation are found without help, and site-packages belong behind the standard library.
export PYTHONSAFEPATH=1
entries=":${PYTHONPATH:-}:"
while [[ $entries == *::* ]]; do entries=${entries//::/:}; done
[ ! -f "$SOURCE/pyproject.toml" ] || entries=":$SOURCE$entries"
entries=${entries#:}
export PYTHONPATH="${entries%:}"
export PYTHONUNBUFFERED=1

# OpenMP's threads would burn the cores that the decoding threads need while they wait for work.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$SLURM_CPUS_PER_TASK}"
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"

# Where the processes meet: the first node by the address that SLURM reaches it by, and a port of the job's own.
first_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_ADDR=$(scontrol show node "$first_node" --oneliner | sed 's/.* NodeAddr=\([^ ]*\).*/\1/')
MASTER_PORT=$((10000 + SLURM_JOB_ID % 20000))
export MASTER_ADDR MASTER_PORT
