"""Statistics of all pairs of the global batch, exact, in memory linear in the batch.

Scores are S = X Yᵀ: a row for each of this rank's rows of X, a column for each row of Y of all
ranks, which the caller has gathered. They are computed a tile at a time and never kept. What an
objective needs of them is small: the log-sum-exp of every row and column (`log_sum_exp`), that of
all together (`total_log_sum_exp`), a sum of some function of all scores (`pair_sum`), the greatest
score of every row and column (`hardest`).

In `pair_sum` and `hardest` an item may have several embeddings: the score of a row and a column is
then the greatest of their products.

Only *negatives* count. A row and a column whose ids are equal (a pair's own image and text, another
caption of the same image, another sample of the same label) are no negatives. What an objective
makes of positives it computes directly: of these there are few.

Scores are multiplied in the precision of the inputs, and added up in it, float32 at least.
"""

from xmodal.objectives.pairwise.cells import Cell, CellFunction
from xmodal.objectives.pairwise.hardest import Hardest, hardest
from xmodal.objectives.pairwise.log_sum_exp import log_sum_exp
from xmodal.objectives.pairwise.multi_vector import pair_scores
from xmodal.objectives.pairwise.pair_sum import pair_sum
from xmodal.objectives.pairwise.tiles import num_negatives
from xmodal.objectives.pairwise.total import total_log_sum_exp

__all__ = [
    "Cell",
    "CellFunction",
    "Hardest",
    "hardest",
    "log_sum_exp",
    "num_negatives",
    "pair_scores",
    "pair_sum",
    "total_log_sum_exp",
]
