"""What does not depend on attention or graphs: errors and exit codes, files, memory, child processes, the terminal."""
