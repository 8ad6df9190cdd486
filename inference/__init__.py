"""What is done with a model: training, evaluation, comparison, figures."""
