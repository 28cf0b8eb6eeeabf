"""How a trained model is served: what a request may ask, the machine that answers, the server, the MLflow folder as data."""
