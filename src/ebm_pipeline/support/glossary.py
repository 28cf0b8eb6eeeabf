"""The glossary: every number that a run logs, by name, with what it is. The one place where these names have labels.

{part} is train, validation or test; {layer} a hidden layer or the weights below it, {pair} two neighbours among replicas, from 1.
Letters: v an image, D its pixels, h hidden units, F the free energy, W weights, Z the partition function, s a singular value.
`names` reads it; `python -m ebm_pipeline.support.names` writes docs/glossary.md.
"""

from __future__ import annotations

from dataclasses import dataclass

LOWER, HIGHER, HALF, ONE, NONE = "lower", "higher", "near 0.5", "near 1", "-"
ALL, HELD_OUT, NOWHERE = ("train", "validation", "test"), ("validation", "test"), ()

HINTON = "Hinton (2010), doi:10.1007/978-3-642-35289-8_32"
STUDY = "Mehta et al. (2019), arXiv:1803.08823"
BESAG = "Besag (1975), doi:10.2307/2987782"
GEMAN = "Geman & Geman (1984), doi:10.1109/TPAMI.1984.4767596"
LAROCHELLE = "Larochelle & Bengio (2008), doi:10.1145/1390156.1390224"
DEEP = "Salakhutdinov & Hinton (2009), proceedings.mlr.press/v5/salakhutdinov09a.html"
AIS = "Neal (2001), arXiv:physics/9803008"
QUANTITATIVE = "Salakhutdinov & Murray (2008), doi:10.1145/1390156.1390266"
REVERSE = "Burda, Grosse & Salakhutdinov (2015), arXiv:1412.8566"
SPECTRUM = "Decelle, Fissore & Furtlehner (2017), arXiv:1708.02917"
TUBIANA = "Tubiana & Monasson (2017), arXiv:1611.06759"
CHO = "Cho, Ilin & Raiko (2011), doi:10.1007/978-3-642-21735-7_2"
TEMPERING = "Katzgraber et al. (2006), arXiv:cond-mat/0602085"
TRAJECTORY = "Bereux et al. (2024), arXiv:2405.15376"
R_HAT = "Vehtari et al. (2021), arXiv:1903.08008"
NESTED = "Margossian et al. (2024), arXiv:2110.13017"
ENERGY = "Szekely & Rizzo (2013), doi:10.1016/j.jspi.2013.03.018"
NEIGHBOURS = "Yale et al. (2020), doi:10.1016/j.neucom.2019.12.136"
FRECHET = "Dowson & Landau (1982), doi:10.1016/0047-259X(82)90077-X"
PEARSON = "Pearson (1900), doi:10.1080/14786440009463897"
DEFINED = "definition"

RMS, FRACTION, NATS, SECONDS, PIXEL = "RMS of pixels", "fraction", "nats per image", "s", "units of pixels"


@dataclass(frozen=True)
class Term:
    """One quantity. `tracked`: the parts of which MLflow gets it, ALL for one without part; the others are in files alone.

    short: its label in the line of progress, where it is there.
    """

    name: str
    label: str
    formula: str
    unit: str
    better: str
    source: str
    tracked: tuple[str, ...] = ALL
    short: str = ""


WATCHED = (  # after each epoch, and by ebm-evaluate
    Term("{part}/reconstruction_error", "reconstruction error",
         "sqrt(mean (v - E[v | h])^2), h: up through all layers and down by conditional modes", RMS, LOWER, HINTON,
         short="reconstruction"),
    Term("{part}/reconstruction_wrong_pixels", "wrong pixels, reconstructed",
         "share of pixels that the mode of the reconstruction gets wrong; binary units", FRACTION, LOWER, STUDY),
    Term("{part}/denoising_error", "denoising error",
         "as the reconstruction error, from images with evaluation.flips of their pixels flipped, against the clean ones", RMS,
         LOWER, STUDY, short="denoising"),
    Term("{part}/denoising_wrong_pixels", "wrong pixels, denoised",
         "share of pixels that the mode of the denoised image gets wrong; binary units", FRACTION, LOWER, STUDY),
    Term("validation/restored_wrong_pixels", "wrong pixels, restored by sampling",
         "share of pixels wrong in the likelier state of each, sampled given the noisy image and evaluation.flips, at the end; "
         "500 images of binary units", FRACTION, LOWER, GEMAN),
    Term("{part}/pseudo_likelihood", "pseudo-likelihood",
         "sum_i log p(v_i | all others), by ten pixels of each image: D mean log sigmoid(F(v, pixel flipped) - F(v)); two "
         "layers", NATS, HIGHER, BESAG, short="pseudo-likelihood"),
    Term("{part}/classification_error", "classification error",
         "share of images whose most probable label given the image is not theirs", FRACTION, LOWER, LAROCHELLE,
         short="classification"),
    Term("{part}/free_energy_gap", "free-energy gap",
         "mean F(images of the part) - mean F(as many training images); two layers. It grows when a machine overfits", NATS,
         LOWER, HINTON, short="gap"),
    Term("{part}/bound_gap", "gap of the bound",
         "mean bound without log Z of training images - that of images of the part; more than two layers", NATS, LOWER, HINTON,
         short="gap of the bound"),
    Term("{part}/mean_field_residual", "mean-field residual", "largest change of a mean in the last step of mean field",
         "probability", LOWER, DEEP, NOWHERE),
    Term("{part}/trajectory_log_likelihood", "log-likelihood along the trajectory",
         "mean -F(v), or bound without log Z, - log Z by the ladder of sampler=trajectory as it is, of the last weights; without "
         "an error", NATS, HIGHER, TRAJECTORY, short="log-likelihood"),
    Term("train/mean_field_steps", "mean-field steps",
         "steps until mean field changes by less than its tolerance, mean over batches", "steps", LOWER, DEEP),
    Term("train/learning_rate", "learning rate", "step size of the optimizer in the epoch", "1", NONE, DEFINED),
)  # fmt: skip

BASELINES = (  # of a run's data, without its model
    Term("validation/noisy_error", "error of the noisy images",
         "sqrt(mean (v - noisy v)^2), noisy v: with evaluation.flips of the pixels flipped", RMS, LOWER, DEFINED, NOWHERE),
    Term("validation/noisy_wrong_pixels", "wrong pixels of the noisy images", "share of pixels that differ; two states", FRACTION,
         LOWER, DEFINED, NOWHERE),
    Term("validation/independent_error", "error of independent units",
         "sqrt(mean (v - m)^2), m: means of independent units fitted to the training images", RMS, LOWER, DEFINED, NOWHERE),
    Term("validation/independent_wrong_pixels", "wrong pixels of independent units",
         "share of pixels that the likelier state of each unit, one image for all, gets wrong; two states", FRACTION, LOWER,
         DEFINED, NOWHERE),
    Term("validation/independent_restored_wrong_pixels", "wrong pixels, restored by independent units",
         "share of pixels wrong in the likelier state of each independent unit given the noisy one and evaluation.flips; two "
         "states", FRACTION, LOWER, DEFINED, NOWHERE),
)  # fmt: skip

WEIGHTS = (
    Term("weights/norm", "norm of the weights", "sqrt(sum W^2) over all layers", "1", NONE, DEFINED),
    Term("weights/sparsity", "sparsity of the weights", "share of the weights with |W| < 0.01", FRACTION, NONE, DEFINED),
    Term("weights/largest_singular_value_{layer}", "largest singular value", "max s of W", "1", NONE, SPECTRUM),
    Term("weights/singular_participation_{layer}", "participation of singular values",
         "(sum s^2)^2 / sum s^4: how many directions share the strength of W", "directions", NONE, SPECTRUM),
    Term("weights/deviation_least", "least deviation",
         "least standard deviation of a visible unit given h, where variances are learned", PIXEL, NONE, CHO),
    Term("weights/deviation_largest", "largest deviation", "largest standard deviation of a visible unit given h", PIXEL, NONE,
         CHO),
    Term("weights/deviations_at_floor", "deviations at the floor", "share of visible units whose variance is at its floor",
         FRACTION, LOWER, CHO),
    Term("weights/square", "squared weights", "mean over hidden units of sum_i W_ij^2, first layer", "1", NONE, TUBIANA,
         NOWHERE),
    Term("weights/participation", "participation of weights",
         "mean over hidden units of (sum_i W_ij^2)^2 / (D sum_i W_ij^4): share of the pixels that a unit uses", FRACTION, NONE,
         TUBIANA, NOWHERE),
)  # fmt: skip

SAMPLER = (
    Term("sampler/swap_rate_{pair}", "swap rate", "running mean of the acceptance between two replicas, from the hottest",
         FRACTION, NONE, TEMPERING),
    Term("sampler/round_trips", "round trips", "states that came from the coldest replica to the hottest and back, per chain",
         "1", HIGHER, TEMPERING),
    Term("sampler/rungs", "rungs of the ladder", "machines along the trajectory, the one in training included", "machines", NONE,
         TRAJECTORY),
    Term("sampler/least_swap_rate", "least swap rate",
         "lowest running mean of the acceptance between neighbours along the trajectory", FRACTION, NONE, TRAJECTORY, NOWHERE),
    Term("sampler/chain_age", "age of the chains",
         "sweeps since the state of a chain was last one of independent units, mean over the chains; as many as were made where "
         "none came up yet", "sweeps", LOWER, TRAJECTORY, NOWHERE),
    Term("sampler/least_class_share", "rarest class among samples",
         "share of the rarest class among samples from noise that have one, by a network trained on the data", FRACTION, NONE,
         DEFINED, NOWHERE),
    Term("sampler/most_class_share", "commonest class among samples", "share of the commonest class, likewise", FRACTION, NONE,
         DEFINED, NOWHERE),
    Term("sampler/unsure_samples", "samples without a class", "share of samples whose likeliest class has probability below 0.5",
         FRACTION, LOWER, DEFINED, NOWHERE),
    Term("sampler/classes_p_value", "chance of classes, data against noise",
         "p of the chi-square test that chains from data and from noise have the same shares of each class", "1", NONE, PEARSON,
         NOWHERE),
    Term("sampler/sweeps", "sweeps made", "sweeps of each chain, those by doubling included", "1", NONE, DEFINED, NOWHERE),
    Term("sampler/nearest_training_image", "distance to the nearest training image",
         "median over samples, divided by that of held-out images: below 1 where samples repeat training images", "1", ONE,
         DEFINED, NOWHERE),
    Term("sampler/r_hat", "R-hat, data against noise",
         "rank-normalised split R-hat between chains from data and chains from noise, each family as one: the largest of F "
         "and three principal components", "1", ONE, NESTED),
    Term("sampler/chains_r_hat", "R-hat of single chains", "the same over all single chains", "1", ONE, R_HAT),
    Term("sampler/energy_bulk_ess", "effective samples of F", "bulk effective sample size of F over the chains", "samples",
         HIGHER, R_HAT, NOWHERE),
    Term("sampler/energy_autocorrelation_sweeps", "autocorrelation time of F", "1 + 2 sum_t rho(t) of F", "sweeps", LOWER,
         R_HAT, NOWHERE),
    Term("sampler/heat_capacity_per_unit", "heat capacity per unit", "Var(E) / units, over samples", "1", NONE, DEFINED,
         NOWHERE),
    Term("sampler/log_partition_forward", "log Z, forward",
         "log mean of the weights of AIS, from independent units to the machine", "nats", NONE, AIS, NOWHERE),
    Term("sampler/log_partition_forward_std_error", "error of log Z, forward", "standard error of it, by the weights", "nats",
         LOWER, AIS, NOWHERE),
    Term("sampler/log_partition_forward_ess", "effective samples of log Z, forward", "(sum w)^2 / sum w^2", "samples", HIGHER,
         AIS, NOWHERE),
    Term("sampler/log_partition_reverse", "log Z, reverse", "minus log mean of the weights of AIS, from samples of the machine",
         "nats", NONE, REVERSE, NOWHERE),
    Term("sampler/log_partition_reverse_std_error", "error of log Z, reverse", "standard error of it, by the weights", "nats",
         LOWER, REVERSE, NOWHERE),
    Term("sampler/log_partition_reverse_ess", "effective samples of log Z, reverse", "(sum w)^2 / sum w^2", "samples", HIGHER,
         REVERSE, NOWHERE),
    Term("sampler/log_partition_trajectory", "log Z, along the trajectory",
         "log Z of independent units + sum over neighbours of Bennett's log ratio", "nats", NONE, TRAJECTORY, NOWHERE),
    Term("sampler/log_partition_trajectory_std_error", "error of log Z, along the trajectory",
         "jackknife over groups of independent columns of chains", "nats", LOWER, TRAJECTORY, NOWHERE),
    Term("sampler/log_partition_trajectory_ess", "effective samples of log Z, along the trajectory",
         "independent states of each machine that would have this error", "samples", HIGHER, TRAJECTORY, NOWHERE),
)  # fmt: skip

LIKELIHOOD = (
    Term("{part}/log_likelihood_low", "log-likelihood, lower end", "mean -F(v) - (reverse log Z + 2 SE), or exact", NATS,
         HIGHER, REVERSE),
    Term("{part}/log_likelihood_high", "log-likelihood, upper end", "mean -F(v) - (forward log Z - 2 SE), or exact", NATS,
         HIGHER, QUANTITATIVE),
    Term("{part}/variational_bound_low", "variational bound, lower end",
         "mean bound without log Z - (reverse log Z + 2 SE); more than two layers", NATS, HIGHER, DEEP),
    Term("{part}/variational_bound_high", "variational bound, upper end", "mean bound without log Z - (forward log Z - 2 SE)",
         NATS, HIGHER, DEEP),
    Term("{part}/independent_log_likelihood", "log-likelihood of independent units",
         "sum_i log p_i(v_i), p_i fitted to the training images: what any model must beat", NATS, NONE, DEFINED, ("test",)),
    Term("{part}/bound_below_log_likelihood", "looseness of the bound",
         "log p(v) - bound of a few images, log p(v) by AIS with v clamped", NATS, LOWER, QUANTITATIVE, NOWHERE),
)  # fmt: skip

SAMPLES = (
    Term("{part}/samples_energy_distance", "energy distance of samples",
         "2 E|x - v| - E|x - x'| - E|v - v'|, x samples, v images; 0 for equal distributions", PIXEL, LOWER, ENERGY, HELD_OUT),
    Term("{part}/samples_energy_distance_error", "error of the energy distance",
         "its standard deviation when rows of both sets change places", PIXEL, NONE, ENERGY, NOWHERE),
    Term("{part}/samples_energy_coefficient", "energy coefficient of samples", "energy distance / (2 E|x - v|)", "1", LOWER,
         ENERGY, NOWHERE),
    Term("{part}/samples_adversarial_accuracy", "samples told from data",
         "mean of the shares of samples and of images whose nearest neighbour is of their own set; 1: apart, below 0.5: copies",
         FRACTION, HALF, NEIGHBOURS, HELD_OUT),
    Term("{part}/samples_adversarial_accuracy_of_samples", "samples told from data, of samples",
         "share of samples whose nearest neighbour is a sample", FRACTION, HALF, NEIGHBOURS, NOWHERE),
    Term("{part}/samples_adversarial_accuracy_of_data", "samples told from data, of data",
         "share of images whose nearest neighbour is an image", FRACTION, HALF, NEIGHBOURS, NOWHERE),
    Term("{part}/samples_adversarial_accuracy_error", "error of telling samples from data",
         "standard deviation of the accuracy when rows of both sets change places", FRACTION, NONE, NEIGHBOURS, NOWHERE),
    Term("{part}/samples_mean_error", "error of the means", "RMS difference of the means of units, samples against images",
         PIXEL, LOWER, DEFINED, NOWHERE),
    Term("{part}/samples_covariance_error", "error of the covariances", "RMS difference of the covariances of units",
         "squares of pixels", LOWER, DEFINED, NOWHERE),
    Term("{part}/samples_frechet_distance", "Frechet distance of samples",
         "|m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)) in ten principal components of the images", "squares of pixels", LOWER,
         FRECHET, NOWHERE),
    Term("{part}/samples_mean_deviation", "deviation of the means",
         "|mean of samples - mean of images| / RMS deviation of the images", "standard deviations", LOWER, DEFINED, NOWHERE),
    Term("{part}/samples_covariance_deviation", "deviation of the covariances",
         "|C of samples - C of images| / |C of images|, less what is chance", "1", LOWER, DEFINED, NOWHERE),
    Term("{part}/data_adversarial_accuracy", "training data told from data",
         "as samples told from data, with training images for samples", FRACTION, HALF, NEIGHBOURS, NOWHERE),
    Term("{part}/data_adversarial_accuracy_error", "error of telling training data from data", "its deviation by chance",
         FRACTION, NONE, NEIGHBOURS, NOWHERE),
    Term("{part}/data_energy_distance", "energy distance of training data",
         "as that of samples, with training images for samples", PIXEL, NONE, ENERGY, NOWHERE),
    Term("{part}/data_energy_distance_error", "error of the energy distance of training data", "its deviation by chance", PIXEL,
         NONE, ENERGY, NOWHERE),
    Term("{part}/independent_adversarial_accuracy", "independent units told from data",
         "as samples told from data, with samples of independent units", FRACTION, NONE, NEIGHBOURS, NOWHERE),
    Term("{part}/independent_energy_distance", "energy distance of independent units",
         "as that of samples, of independent units", PIXEL, NONE, ENERGY, NOWHERE),
    Term("{part}/independent_energy_distance_error", "error of the energy distance of independent units",
         "its deviation by chance", PIXEL, NONE, ENERGY, NOWHERE),
    Term("{part}/hidden_dead", "dead hidden units", "share of hidden units whose mean varies by less than 0.01, and is low",
         FRACTION, LOWER, HINTON, NOWHERE),
    Term("{part}/hidden_saturated", "saturated hidden units",
         "share of hidden units whose mean varies by less than 0.01, and is high", FRACTION, LOWER, HINTON, NOWHERE),
    Term("{part}/hidden_{layer}_dead", "dead units of a layer", "the same of one layer", FRACTION, LOWER, HINTON, NOWHERE),
    Term("{part}/hidden_{layer}_saturated", "saturated units of a layer", "the same of one layer", FRACTION, LOWER, HINTON,
         NOWHERE),
    Term("{part}/hidden_{layer}_spread", "spread of a layer",
         "RMS deviation of the units' means over the images, in their range", "1", HIGHER, DEFINED, NOWHERE),
    Term("{part}/hidden_{layer}_participation", "participation of a layer",
         "(sum s^2)^2 / sum s^4, s^2: eigenvalues of the covariance of the units' means", "directions", HIGHER, DEFINED,
         NOWHERE),
    Term("{part}/hidden_{layer}_use", "use of a layer",
         "mean bound (RBM: log p(v)) - the same with one state of the layer for all images: the most that is lost without it and "
         "those above it", NATS, HIGHER, DEFINED, HELD_OUT),
)  # fmt: skip

TIME = (
    Term("time/epoch", "epoch", "epochs done: what the updates along the axis stand for", "epochs", NONE, DEFINED),
    Term("time/seconds_per_epoch", "training batches of an epoch", "seconds in the batches of the epoch", SECONDS, LOWER,
         DEFINED),
    Term("time/validation_seconds", "validation of an epoch", "seconds of the epoch in validation and pictures", SECONDS, LOWER,
         DEFINED, NOWHERE),
    Term("time/total_seconds", "training time", "seconds of all epochs and phases, validation and pictures with them", SECONDS,
         LOWER, DEFINED),
)  # fmt: skip

SECTIONS = {
    "Watched while a machine learns": WATCHED,
    "Without a model": BASELINES,
    "Weights": WEIGHTS,
    "Sampler": SAMPLER,
    "Likelihood": LIKELIHOOD,
    "Samples against data": SAMPLES,
    "Time": TIME,
}
TERMS = tuple(term for terms in SECTIONS.values() for term in terms)
