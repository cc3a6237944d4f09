"""Where a job runs, and what becomes of one that breaks its limits."""
