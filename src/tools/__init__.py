"""Programs beside training, evaluation and export: python -m src.tools.NAME"""
