"""The paper's evaluations: what is measured, against what, and by whose rules.

Lesion tracking (``dls_*``), landmarks between patients and phases (``landmark*``), registration before and after
(``pair_table``, ``registration``), the other programs and features that stand beside ours in every table
(``baselines``, ``mind``, ``features``). Metrics are plain numpy on plain numbers, so that another method's
predictions are measured by the same lines as ours.

Nothing here is needed to match or to register; packages beyond SAMv2's own (elastix, ANTs, convexAdam, matplotlib) are
imported inside the functions that use them, and their absence is an error that says what to install.
"""
