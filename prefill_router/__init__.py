"""Predict which language model will answer right, from another model's prefill states."""

from importlib import import_module

__version__ = "0.2.0.dev0"

# The public names in teaching order, by the module that is imported when one is first used.
_PUBLIC = {
    "labels": ["load_labels", "Labels", "write_labels"],
    "labels.splits": ["make_splits", "Split"],
    "labels.costs": ["load_prices", "Prices", "query_costs", "expected_costs"],
    "extraction": ["extract"],
    "extraction.activations": ["Activations"],
    "probes": [
        "probe_layers",
        "separability",
        "whitened_separability",
        "effective_dimensionality",
        "anisotropy",
    ],
    "features.selection": ["cross_validated_auc", "choose"],
    "features": ["TargetFeatures"],
    "trunk": ["SharedTrunkEnsemble"],
    "baselines": ["TrainingAccuracy", "BenchmarkAware", "NearestNeighbours", "Clusters"],
    "baselines.classifiers": ["LengthOnly", "TfidfLogistic", "TargetLogistic", "TargetTrees"],
    "baselines.latent": ["MatrixFactorisation", "ItemResponse"],
    "baselines.text_classifier": ["TextClassifier"],
    "policy": ["policy"],
    "metrics": ["metrics"],
    "evaluation.curves": ["routing_curve"],
    "evaluation.results": ["Quantity", "one"],
    "evaluation.bootstrap": ["estimate"],
    "evaluation.comparison": ["Evaluation"],
    "recipe": ["Recipe", "fit_recipe"],
    "router": ["Router"],
    "errors": ["InputError"],
}
_MODULE_OF = {name: module for module, names in _PUBLIC.items() for name in names}
__all__ = list(_MODULE_OF)


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{_MODULE_OF[name]}")
    return module if module.__name__.endswith(f".{name}") else getattr(module, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
