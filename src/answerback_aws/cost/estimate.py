"""All that the cost command says, computed at once."""

from collections.abc import Sequence
from dataclasses import dataclass

from answerback_aws.cost.assumptions import assumptions
from answerback_aws.cost.bill import Line, Saving, bill, deployed, month, plain, savings, total
from answerback_aws.cost.counts import Prices, TokenPrice, load_counts, load_prices, load_token_price
from answerback_aws.cost.workload import Usage, Workload, use


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A month, in US dollars. `plain_usd`: the stack built in the plain way, without the model's tokens."""

    workload: Workload
    usage: Usage
    lines: Sequence[Line]
    savings: Sequence[Saving]
    plain_usd: float
    assumptions: Sequence[str]
    prices: Prices
    tokens: TokenPrice | None

    @property
    def usd(self) -> float:
        """The whole bill."""
        return total(self.lines)

    @property
    def stack_usd(self) -> float:
        """The bill without the model's tokens."""
        return total([line for line in self.lines if line.service != "Bedrock"])


def estimate(workload: Workload, *, region: str, model: str | None) -> Estimate:
    """Estimate a month; `model` None leaves the tokens out. Raises: UnknownPrice."""
    prices = load_prices(region)
    tokens = None if model is None else load_token_price(model)
    counts = load_counts()
    design = deployed()
    usage = use(workload, design, counts)
    return Estimate(
        workload=workload,
        usage=usage,
        lines=bill(usage, workload, design, prices, tokens),
        savings=savings(workload, counts, prices),
        plain_usd=month(workload, plain(), counts, prices),
        assumptions=assumptions(workload, counts),
        prices=prices,
        tokens=tokens,
    )
