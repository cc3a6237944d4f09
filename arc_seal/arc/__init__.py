"""The ARC world: grids, tasks, their files and the reward. Pure Python and numpy."""
