#!/bin/bash
# Slurm: one small job that hands out the rows, 50 in a job, 40 jobs at once. When it ends before the batch has (time,
# a failed node), submit it again: --resume goes on.
#   sbatch Resources/Examples/cohorts/slurm.sh studies.csv /shared/results
#SBATCH --job-name=samv2
#SBATCH --cpus-per-task=1
#SBATCH --mem=4G
#SBATCH --time=24:00:00
export SBATCH_TIMELIMIT=04:00:00 # of the jobs with rows; SBATCH_PARTITION and SBATCH_ACCOUNT likewise
samv2 batch track --table "$1" --output "$2" --slurm --workers 40 --threads 8 --resume
