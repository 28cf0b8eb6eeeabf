"""scikit-learn's BernoulliRBM: PCD-1 by `partial_fit`, whose batches are reshuffled here (`fit` leaves them in their order)."""

from __future__ import annotations

from run import HIDDEN, Run, main
from sklearn.neural_network import BernoulliRBM


def train(run: Run) -> None:
    machine = BernoulliRBM(n_components=HIDDEN, batch_size=run.batch_size, random_state=run.seed)
    for epoch in range(run.epochs):
        machine.learning_rate = run.rate(epoch)
        with run.clock():
            for rows in run.batches():
                machine.partial_fit(run.images[rows])
        run.keep(machine.components_.T, machine.intercept_visible_, machine.intercept_hidden_)


main(train, "scikit-learn")
