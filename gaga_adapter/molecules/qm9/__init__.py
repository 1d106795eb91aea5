"""The QM9 data set: geometries with EDM's splits (`data`), and properties (`properties`)."""

from gaga_adapter.molecules.qm9.data import load_qm9, qm9_train_smiles, split_indices

__all__ = ["load_qm9", "qm9_train_smiles", "split_indices"]
