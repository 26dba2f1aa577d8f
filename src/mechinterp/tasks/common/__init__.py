"""What several tasks, or one long task, are made of: draws, twins, labelled items, reference predictors."""
