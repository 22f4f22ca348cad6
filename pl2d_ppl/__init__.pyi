from .clusters.fit import fit_clusters as fit_clusters
from .data.annotated import Annotated as Annotated
from .data.files.formats import read_data as read_data
from .data.splits import split as split
from .data.splits import standardise as standardise
from .deferral.classifier import train_classifier as train_classifier
from .deferral.deferral import Deferral as Deferral
from .engine.elbo import EnumELBO as EnumELBO
from .engine.marginals import log_evidence as log_evidence
from .engine.marginals import marginals as marginals
from .engine.per_run import PerRun as PerRun
from .engine.tilt import tilt as tilt
from .engine.workload import workload as workload
from .inference.arviz import to_datatree as to_datatree
from .inference.fit import NonFiniteLossError as NonFiniteLossError
from .inference.fit import fit as fit
from .inference.load import load as load
from .inference.predictive import predictive as predictive
from .inference.result import FitResult as FitResult
from .inference.schedule import Schedule as Schedule
from .networks.convolutional import ConvNet as ConvNet
from .networks.ensemble import Ensemble as Ensemble
from .networks.frozen import Frozen as Frozen
from .networks.mlp import MLP as MLP
from .people.membership import Membership as Membership
from .people.pooled import PooledPeople as PooledPeople

__version__: str
