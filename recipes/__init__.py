"""One readable file a recipe: configuration, data, Bootstrap, fit, evaluation, figures."""
