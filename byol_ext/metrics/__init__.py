"""Evaluation in numbers: pure functions from embeddings (or ranks, scores, labels) to plain floats.

- `retrieval`: ranks in both directions, recall, mean average precision, exact chance.
- `bootstrap`: percentile intervals and paired differences.
- `probes`: k-NN, linear and MLP probes on frozen representations.
- `zero_shot`: classification from text templates. `classification`: accuracy, AUROC, mAP, mAR, confusion.
- `spectrum`: RankMe, collapse measures and the `CollapseMonitor`.
- `detection`: AVA's mean average precision of labelled boxes. `dynamics`: what features know of a video's motion.
- `text`, `ngram_model`, `nonsense`: generated text beside real text and nonsense.
- `predictor_spectrum`, `augmentation_moments`, `hull`, `per_class`, `few_labels`: why and for whom a method works.
- `modality_gap`: the gap between two modalities, always beside the guards that tell a closed gap from a collapse.

Units: retrieval rates are **percent** (the tables that they are compared with are); every other rate is a
fraction in [0, 1]. Dictionaries that leave this package are flat, `{"retrieval/text_to_audio/R@1": 12.5}`.
Nothing here trains the evaluated model, reads files, or draws (figures live in `byol_ext.training.figures`).
"""
