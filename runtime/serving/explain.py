"""What each feature added to a score: Shapley values against one baseline row, by sampled orders of the features.

Features are switched from the baseline to the row's values one after the other; what the score moves by is theirs.
So for every order, and for their mean, attributions add up to score − baseline score, whatever the model is made of;
integrated gradients need a gradient, which a category's index does not have. Baseline Shapley: Sundararajan & Najmi,
ICML 2020 (1908.08474); sampled orders with their reverses: Mitchell et al., JMLR 2022 (2104.12199).
"""

import asyncio
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from runtime.data.encoding import Encoded
from runtime.models.bundle import Bundle
from runtime.serving.codec import Explained, RequestFault
from runtime.serving.scoring import Call, Question, Scored, Scorer

NUM_ORDERS = 32
"""Half of them drawn, the other half their reverses."""
RETRY_AFTER_S = 1
MAX_ROWS = 64
"""Of one explained request: each costs `NUM_ORDERS` × features rows."""


class Explainer:
    def __init__(self, bundle: Bundle, scorer: Scorer) -> None:
        """The baseline: means of the training data's numbers, its most frequent categories."""
        self._scorer = scorer
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="explain")
        self._is_taken = False
        self.features = (*bundle.encoding.numeric, *bundle.encoding.categorical)
        counts = bundle.profile.counts
        with np.errstate(invalid="ignore", divide="ignore"):
            means = counts.moments[:, 1] / counts.moments[:, 0]
        self._numeric = means.astype(np.float32)
        self._categorical = np.array([np.argmax(of_one) for of_one in counts.categorical], dtype=np.int64)
        random = np.random.default_rng(0)
        drawn = [random.permutation(len(self.features)) for _ in range(NUM_ORDERS // 2)]
        self._orders = np.array([*drawn, *(order[::-1] for order in drawn)])
        # [orders, steps between the baseline and the row, features]: which features have the row's value
        ranks = np.argsort(self._orders, axis=1)
        self._switched = ranks[:, None, :] <= np.arange(len(self.features) - 1)[:, None]

    async def answer(self, question: Question, call: Call) -> tuple[Scored, Explained | None]:
        """Scores, and where the call asks for it what they are made of.

        That takes hundreds of times as long, so a thread does it, for one request at a time, while others are answered
        here. RequestFault 429 if it is busy, 413 above `MAX_ROWS` rows, each before anything is scored.
        """
        if not call.is_explained:
            return await self._scorer.score(question, call), None
        _check_rows(len(question.encoded))
        if self._is_taken:
            message = "another request is being explained; repeat later"
            raise RequestFault(429, "overloaded", message, retry_after_s=RETRY_AFTER_S)
        self._is_taken = True
        work: Future[Explained] | None = None
        try:
            scored = await self._scorer.score(question, call)
            work = self._thread.submit(self.explain, question.encoded, scored.scores)
            explained = await asyncio.shield(asyncio.wrap_future(work))
        finally:
            # Whoever asked may have gone; the thread is still at it then.
            if work is None or work.done():
                self._is_taken = False
            else:
                loop = asyncio.get_running_loop()
                work.add_done_callback(lambda _: loop.call_soon_threadsafe(self._release))
        return scored, explained

    def _release(self) -> None:
        self._is_taken = False

    def explain(self, encoded: Encoded, scores: npt.NDArray[np.float64]) -> Explained:
        """RequestFault 413 above `MAX_ROWS` rows."""
        _check_rows(len(encoded))
        baseline = Encoded(numeric=self._numeric[None], categorical=self._categorical[None])
        baseline_score = float(self._scorer.compute(baseline)[0])
        attributions = np.stack(
            [
                self._attribute(encoded.numeric[row], encoded.categorical[row], scores[row], baseline_score)
                for row in range(len(encoded))
            ]
        )
        return Explained(self.features, attributions, baseline_score)

    def _attribute(
        self,
        numeric: npt.NDArray[np.float32],
        categorical: npt.NDArray[np.int64],
        score: float,
        baseline_score: float,
    ) -> npt.NDArray[np.float64]:
        num_orders, num_steps, num_features = self._switched.shape
        switched = self._switched.reshape(-1, num_features)
        num_numeric = len(self._numeric)
        mixed = Encoded(
            numeric=np.where(switched[:, :num_numeric], numeric, self._numeric),
            categorical=np.where(switched[:, num_numeric:], categorical, self._categorical),
        )
        between = self._scorer.compute(mixed).reshape(num_orders, num_steps) if num_steps else np.empty((num_orders, 0))
        ends = np.full((num_orders, 1), baseline_score), np.full((num_orders, 1), score)
        moves = np.diff(np.concatenate([ends[0], between, ends[1]], axis=1), axis=1)
        by_feature = np.empty_like(moves)
        np.put_along_axis(by_feature, self._orders, moves, axis=1)
        mean: npt.NDArray[np.float64] = by_feature.mean(axis=0)
        return mean


def _check_rows(rows: int) -> None:
    if rows > MAX_ROWS:
        raise RequestFault(413, "too_large", f"{rows} rows are too many to explain at once; send at most {MAX_ROWS}")
