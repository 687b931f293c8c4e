"""Families, a model and all that was made out of it: asked as one, which answers by its best that fits a budget."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from service import deadlines
from service.choice import Wish, choose
from service.house import House, TheHouse
from service.predictor import BROKEN, GONE
from service.problems import NotReady
from service.routes.predict import BODY, PredictQuery, answer_upload, respond
from service.schemas import ChosenPredictions
from service.uploads import Upload, read_upload

router = APIRouter(prefix="/v1/families", tags=["predictions"])


class FamilyQuery(PredictQuery):
    """The same, and what the model that answers may cost and must be worth."""

    latency_budget_ms: Annotated[
        float | None,
        Query(gt=0, allow_inf_nan=False, description="Milliseconds for one image: the median that was measured."),
    ] = None
    min_accuracy: Annotated[
        float | None, Query(ge=0, le=1, allow_inf_nan=False, description="Validation accuracy that it must have.")
    ] = None


@router.post(
    "/{family}/predict",
    summary="Predict by the model of a family that fits a budget",
    response_model=ChosenPredictions,
    openapi_extra=BODY | {"parameters": [*BODY["parameters"], deadlines.PARAMETER]},
)
async def predict(
    family: str,
    request: Request,
    house: TheHouse,
    query: Annotated[FamilyQuery, Query()],
) -> Response:
    """Takes the same bodies as a model, and names the one that answered in `chosen`.

    The most accurate within the budget; with a minimum and no budget the fastest that reaches it. 422 when none
    fits, with `nearest`. Latency is as measured when each was published; accuracy that on validation images.
    """
    async with deadlines.deadline(request):
        upload = await read_upload(request)
        return await respond(await _answer(house, family, upload, query))


async def _answer(house: House, family: str, upload: Upload, query: FamilyQuery) -> dict[str, Any]:
    wish = Wish(query.latency_budget_ms, query.min_accuracy)
    missed: dict[str, Exception] = {}
    while True:
        contestants = await house.families.contestants(family)
        left = [each for each in contestants if each.model not in missed]
        broken = [missed[each.model] for each in contestants if each.model in missed]
        if broken and not any(wish.is_quick(each) and wish.is_good(each) for each in left):
            raise broken[0]  # what fits is there, but not to be had
        chosen = choose(left, wish)
        try:
            answer = await answer_upload(house.predictor, chosen.model, upload, query)
        except (*GONE, *BROKEN, NotReady) as error:
            # It may have been deleted since its figures were read; if not, it is not to be had, and others may be.
            missed[chosen.model] = error
            house.families.forget(family)
        else:
            return {**answer, "chosen": chosen.model_dump(mode="json")}
