"""All MLflow calls. Knows no machine: numbers, texts, pictures and files go in and out."""
