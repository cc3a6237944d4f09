"""One job: train an adapter on the augmented demonstrations, predict, vote."""
