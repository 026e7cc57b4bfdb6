"""A router amended by further labels: what it promises, and the targets it knows."""

from __future__ import annotations

from dataclasses import replace
from typing import Self

import numpy as np

from prefill_router.errors import InputError
from prefill_router.evaluation.estimates import Estimate
from prefill_router.labels import Labels
from prefill_router.labels.costs import Prices
from prefill_router.router.added_targets import fit_added
from prefill_router.router.description import guarantee_record, tensors_digest
from prefill_router.router.examiner import Examiner
from prefill_router.router.guarantee import certify
from prefill_router.router.seen_questions import digests


class Amendable(Examiner):
    """An `Examiner` from which further labels make another router; it stays as it is."""

    def certify(self, labels: Labels, max_loss: float = 0.02, confidence: float = 0.95) -> Self:
        """Return the router with the guarantee that other held-out labels allow.

        Parameters
        ----------
        labels : Labels
            Of queries that neither the fit nor any choice has seen, see `unseen`; best of those
            that were not among its test queries either.
        max_loss, confidence : float
            As for `prefill_router.router.guarantee.certify`.

        Returns
        -------
        Router
            Without the results of the certified tolerance that it had before.

        Raises
        ------
        InputError
            If it was fitted to some of the questions, or the labels lack a target.
        """
        labels = self._matched(labels)
        p, cost = self._predict(labels.question.tolist())
        promise = certify(
            p,
            labels.correct,
            np.zeros(p.shape[1]) if cost is None else cost,
            self.targets.index(self.guarantee.best_single),
            labels.group,
            targets=self.targets,
            max_loss=max_loss,
            confidence=confidence,
        )
        added = [record.model_copy(update={"certified": True}) for record in self.config.added]
        metrics = [row for row in self.config.metrics if row.router != "certified"]
        update = {"guarantee": guarantee_record(promise), "added": added, "metrics": metrics}
        parts = replace(self._fitted, tuned=replace(self._fitted.tuned, guarantee=promise))
        return type(self)(self.config.model_copy(update=update), parts, self._source, self._device)

    def add_target(
        self, labels: Labels, prices: Prices | None = None, n_resamples: int = 2000, seed: int = 0
    ) -> tuple[Self, list[Estimate]]:
        """Return the router with one target more, from few labels of it.

        Its probability is read off those of the other targets: what they find hard it is supposed
        to find hard, as far as its own labels do not say otherwise. Fit a new router once there are
        many.

        Parameters
        ----------
        labels : Labels
            Of the new target alone; best of queries that the router was not fitted to (`unseen`),
            on which it predicts the others too well. From then on they count as seen, and with
            them all of their groups in `labels`.
        prices : Prices, optional
            With the new target's; needed where the router knows costs and not all labels have
            `cost_usd`.
        n_resamples, seed
            Of the bootstrap, and of the folds that say how sure it is.

        Returns
        -------
        router : Router
            Its guarantee does not cover the new target until `certify` is given labels of all.
        estimates : list of Estimate
            How sure it is: see `prefill_router.router.added_targets.fit_added`.

        Raises
        ------
        InputError
            If the labels are too few, all alike or of several targets, the target is known
            already, or its costs are not.
        """
        if labels.n_targets != 1 or labels.targets[0] in self.targets:
            raise InputError(
                f"The labels are of {', '.join(labels.targets)}; they must be of one target that "
                f"the router does not know (it knows {', '.join(self.targets)})."
            )
        read = self._read(labels.question.tolist())
        record, estimates = fit_added(
            labels,
            read.p[:, : len(self.config.targets)],
            read.n_tokens,
            prices,
            self.parts.costs is not None,
            n_resamples,
            seed,
        )
        used = labels.group[~np.isnan(labels.correct[:, 0])]
        seen = np.union1d(self._fitted.seen, digests(labels.question[np.isin(labels.group, used)]))
        parts = replace(self._fitted, seen=seen)
        update = {
            "added": [*self.config.added, record],
            "shapes": self.config.shapes.model_copy(update={"seen": len(seen)}),
            "tensors": tensors_digest(parts),
        }
        config = self.config.model_copy(update=update)
        return type(self)(config, parts, self._source, self._device), estimates
