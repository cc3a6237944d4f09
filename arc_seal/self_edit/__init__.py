"""What the model may decide: the toolbox, the self-edit and the data it makes."""
