"""The command line ``samv2``: arguments in, files and exit codes out; all the work is done by the public functions."""
