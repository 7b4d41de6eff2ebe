"""What knows nothing of attention or graphs: errors and exit codes, files, memory, child processes, the terminal."""
