"""What a shift or an adapter does to plain English, which has nothing to do with the tasks.

Only a pretrained model reads English. Every token of a sentence is steered, as if it were an answer's.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel

from memgen import intervals
from memgen.behavior import NAMES, TARGETS
from memgen.config import AnalysisConfig
from memgen.steering.controls import controls
from memgen.steering.interventions import Intervention
from memgen.steering.outcomes import GENERATORS
from memgen.subject import Subject

# Written for this purpose, one sentence a line: no model has read them.
SENTENCES = """
The bakery on the corner opens at six and is usually out of rye bread by nine.
She folded the letter twice and put it back into the drawer where she had found it.
Heavy rain in the night had washed most of the gravel off the path behind the school.
If the train is late again, we will miss the last bus to the harbour.
My grandfather kept bees for thirty years and was stung, he said, exactly four times.
The museum closes on Mondays, but the garden stays open all week.
Two of the windows in the workshop do not shut properly in winter.
He learned to swim in the lake long before anyone built the pool.
A thin layer of ice covered the puddles in front of the post office.
The committee could not agree on a date, so the meeting was moved to March.
Nobody remembers who painted the mural, although everyone has an opinion about it.
After dinner they played cards until the candles had burned down.
The price of milk has risen twice since the beginning of the year.
Please leave your boots at the door, because the floor has just been cleaned.
The old bridge carries no cars any more, only people on foot and on bicycles.
Her first job was in a small bookshop that smelled of dust and coffee.
When the wind turns to the north, the whole valley can hear the bells.
The recipe asks for three eggs, but two large ones will do.
They took the longer road because it follows the river for most of the way.
The teacher wrote a single word on the board and waited.
Most of the apples in this basket come from the tree beside the barn.
It took the plumber less than an hour to find the leak.
The dog sleeps under the table whenever there are guests.
We bought the tickets in May and forgot about them until September.
The lamp in the hall flickers when somebody uses the lift.
On clear evenings you can see the lights of the ferries from the hill.
His handwriting is so small that the clerk had to use a glass to read it.
The market moves indoors in November and back to the square in April.
A good knife is kept dry and is never put into a drawer with other knives.
The film was shorter than the book, and for once that was a mercy.
She has lived in four countries and has never owned a car.
The doctor told him to walk every day, even if only around the block.
There is a key for the cellar under the third flower pot.
Our neighbours are repairing their roof, and the noise begins at seven.
The choir practises on Thursdays in the room above the library.
Fresh snow made the steps slippery, and the caretaker spread sand on them.
He opened the map on the hood of the car and pointed at a village.
The children built a dam of stones and mud across the stream.
She wrote the report in one evening and spent a week correcting it.
The hotel had promised a view of the sea, and in a way there was one.
Without the notes of her assistant the lecture would have been lost.
The carpenter measured the door twice before he cut the board.
Their flight was cancelled, so they spent the night at the airport.
The soup needs a little more salt and a lot more time.
In summer the shop sells ice cream, in winter it sells firewood.
The captain knew every rock along that coast by its local name.
A letter with a foreign stamp lay on the mat that morning.
The new printer is quieter than the old one, but it uses more ink.
They planted a row of poplars to keep the wind off the orchard.
The boy counted the coaches of the train until it disappeared in the tunnel.
Half of the audience had left before the speaker came to her point.
The river rises every spring, and every spring the meadow is under water.
He repaired the clock with a piece of wire and a drop of oil.
The nurse on the night shift always brings a thermos of tea.
We could hear the sea from the house, but we could not see it.
The judge asked the witness to repeat the last sentence more slowly.
Her brother collects stamps, coins, and, for some reason, spoons.
The factory has been empty since the year the canal was closed.
A single cloud stood over the mountain as if it had been painted there.
The tailor said that the coat would be ready on Friday at the latest.
They argued about the bill, and then both of them paid it.
The gate is locked at sunset, so walkers should turn back in time.
The gardener covers the roses with straw before the first frost.
She missed the beginning of the concert and stood at the back of the hall.
The cat looked at the vacuum cleaner with deep suspicion.
Every house on that street has a green door and a brass number.
The fisherman sold his boat and opened a small restaurant.
It was so foggy that the drivers followed the tram tracks home.
The librarian stamped the card and wished him a pleasant weekend.
My aunt speaks to her plants, and they seem to like it.
The stairs creak, but only if you are trying to be quiet.
A crowd had gathered around the man who was juggling oranges.
The window of the office looks out on a yard full of bicycles.
She put the bread into the oven and set the alarm for forty minutes.
The two villages share a fire engine and quarrel over who may wash it.
Because of the strike, the newspapers were delivered in the afternoon.
The mechanic listened to the engine and nodded as if it had told him something.
The tide had left a line of shells and rope along the beach.
He answered the question with another question, as he always did.
The concert was held in the church, which is cold but sounds wonderful.
Their youngest daughter wants to become a diver or a judge.
The coffee machine on the second floor has been broken for a month.
She drew a rough plan of the kitchen on the back of an envelope.
The sheep had found a hole in the fence and were standing in the road.
In the evening the mountains turn first yellow, then red, then blue.
The landlord agreed to replace the stove, though not this year.
The students asked for more time, and the professor gave them a day.
A wet towel hung over the railing of every balcony.
The last page of the diary had been torn out with great care.
They shared an umbrella that was much too small for two.
The bus driver knows the names of most of her passengers.
He had packed three books for the journey and opened none of them.
The town hall was built of the same yellow stone as the prison.
The mushrooms grow under the oaks, but only after a warm rain.
She turned the radio down and asked us to listen to the blackbird.
The bank sent a polite letter that nobody in the family could understand.
The ferry takes twelve cars, or eleven and the baker's van.
Old photographs covered the wall between the two doors.
The cook tasted the sauce, frowned, and reached for the lemon.
It is quicker to walk through the park than to wait for the tram.
The engineer explained why the tower leans and why it will not fall.
A small brass plate tells visitors who gave the money for the bench.
The goats are milked at five, long before the tourists wake up.
She found the missing page between two volumes of a dictionary.
The room was warm, the chairs were soft, and soon half of us were asleep.
He keeps his tools in perfect order and his papers in none.
The storm tore the awning from the cafe and carried it across the square.
The pharmacist asked twice whether he was taking any other medicine.
They cleaned the attic and found a cradle, a sword, and a box of buttons.
The snow on the roof slid down with a sound like distant thunder.
The apprentice swept the floor while the master counted the money.
A path of flat stones leads from the kitchen to the well.
The author thanked her editor, her husband, and a patient cat.
The lift stops between floors now and then, and nobody knows why.
He wore the same grey jumper in every photograph of that year.
The swimmers waited on the jetty until the lifeguard waved.
The village has one shop, two churches, and no doctor.
She learned the language from the radio and from her landlady.
The parcel had been opened and closed again with brown tape.
The pond freezes in January, and then the whole town goes skating.
The farmer pointed at the sky and told us to hurry.
The exhibition shows tools that fishermen used a century ago.
He poured the tea, which had become quite cold, into the sink.
The painter mixed a little more blue into the shadow of the wall.
The path became steeper and the conversation slowly stopped.
A man in a yellow coat was measuring the pavement with a wheel.
She keeps a list of words that she has never heard anyone say.
The orchestra tuned for a long time before the lights went down.
The hedge has grown so high that the postman cannot find the bell.
They sold the piano because it would not fit through the new door.
The guide switched off her lamp, and for a moment the cave was black.
The bread was still warm when the first customer came in.
The water in the harbour was so calm that the masts stood upside down in it.
He apologised for the delay and blamed a herd of cows.
The council planted trees along the avenue, one for every shop.
The old man feeds the sparrows and shouts at the pigeons.
The test begins at nine, and no one may leave before ten.
She tied the boat to a ring that had rusted almost through.
The cellar smells of potatoes, coal, and something sweeter.
On Sundays the square is full of people who are in no hurry.
The shoemaker looked at the sole and shook his head.
The first frost came early and spoiled most of the tomatoes.
They whispered in the library, although there was nobody else.
The postcard took five weeks to cross the border.
The veterinarian lifted the dog onto the table and looked at its paw.
The house has been for sale so long that the sign has faded.
She took off her glasses, which meant that the lesson was over.
The ship unloaded timber in the morning and left with the evening tide.
He can whistle any tune after he has heard it once.
The shelves bent under the weight of jars and bottles.
The referee looked at his watch and let the game go on.
An hour before dawn the first lorries arrive with flowers.
The windows were open, and the curtains moved like slow waves.
The potter throws away every tenth bowl, and sells the rest cheaply.
The tram turns left at the theatre and climbs to the hospital.
They waited for the paint to dry and drank lemonade in the shade.
The will was read in a room that smelled of polish.
The beekeeper moved slowly and wore no gloves.
The ladder was a little too short, and so was his patience.
A storm lamp hangs in the porch for those who come home late.
The questions were easy, yet few of us finished in time.
The geese left in October, a week earlier than last year.
She mended the sail with thread that was stronger than the cloth.
The cashier counted the coins without looking at them.
The road to the quarry is closed when they are blasting.
The heating comes on by itself when the temperature falls below ten degrees.
He read the contract to the end, which surprised the agent.
The puppet theatre plays for children on Wednesdays and for adults on Saturdays.
The valley gets its sun late, and loses it early.
The cheese ripens on wooden boards for at least four months.
They carried the sofa up five floors and then down again.
The telescope belongs to the school and is older than its teachers.
She prefers the window seat, he the aisle, and so they travel well together.
The lighthouse has had no keeper since the lamp became automatic.
The bell above the door rang, but nobody came in.
The bricks for the chimney were carried across the fields by hand.
The chemist labelled every bottle twice, once for herself and once for the others.
The frogs begin at dusk and do not stop until the moon is high.
He built a table from the boards of the old stage.
The clerk asked for a form that had not been printed for years.
The evening train is slower, but it stops at every village.
The harvest was good, and for once everybody admitted it.
The sign says that the water is safe, yet the locals boil it.
She saved the seeds of the largest sunflower for next year.
The interpreter left out the joke and nobody noticed.
The swing in the garden was made for children who are parents now.
The mountain hut has twelve beds and forty blankets.
The glass had a crack that one could feel but not see.
They painted the boat red so that it could be found in the fog.
The sculptor covered the clay with a wet cloth for the night.
The bakery burned down once and the bank twice.
He missed the sound of the mill more than the mill itself.
The conductor checked the tickets and complimented the hat.
The tunnel is straight, so that you can see daylight from the middle.
The baby slept through the parade and woke up in the silence after it.
""".strip().splitlines()


class _Condition(NamedTuple):
    """A model, and what steers it: nothing, or some interventions in turn, of which the mean counts."""

    method: str
    control: str | None
    target: str | None
    model: PreTrainedModel
    interventions: Sequence[Intervention | None] = (None,)

    def log_p(self, ids: Tensor) -> list[Tensor]:
        """The log-probabilities of the next token at all positions but the last [pos vocabulary], for each in turn."""
        found = []
        for intervention in self.interventions:
            with contextlib.ExitStack() as steered:
                if intervention and self.target:  # at all tokens
                    steered.enter_context(intervention.apply(self.model, self.target, 1.0, intervention.n_tokens))
                found.append(self.model(ids).logits[0, :-1].float().log_softmax(-1))
        return found


@torch.no_grad()
def collateral(
    subject: Subject,
    base: PreTrainedModel | None,
    interventions: Mapping[str, Intervention],
    table: pd.DataFrame,
    config: AnalysisConfig,
    make_rng: Callable[[str], np.random.Generator],
) -> pd.DataFrame:
    """How well `SENTENCES` are predicted: unsteered, without the adapter, under each shift and its first control.

    `base` is the model without its adapter, if it has one; `table` that of neurons, for controls that need it.

    Returns
    -------
    pandas.DataFrame
        `method` (``none``: unsteered; ``adapter off``; an intervention)`, control, target, measure, value, ci_low,
        ci_high, n` (sentences). Means over sentences of nats a token: `english_loss`, the mean of ``-log p(next
        token)``, and, of all but the unsteered model, `english_kl`, KL(unsteered || this).
    """
    conditions = [_Condition("none", None, None, subject.model)]
    if base is not None:
        conditions.append(_Condition("adapter off", None, None, base))
    for (method, intervention), target in itertools.product(interventions.items(), TARGETS):
        rng, shift, goal = make_rng(f"english {GENERATORS[method]} {target}"), intervention.shift(target), NAMES[target]
        control, draw = next(iter(controls(method, table, intervention.site).items()))
        shifts = [{goal: draw(shift, rng)} for _ in range(config.random_draws)]
        drawn = [dataclasses.replace(intervention, **changed) for changed in shifts]  # type: ignore[arg-type]
        conditions.append(_Condition(method, None, goal, subject.model, [intervention]))
        conditions.append(_Condition(method, control, goal, subject.model, drawn))
    found = np.zeros((2, len(conditions), len(SENTENCES)))
    for place, sentence in enumerate(SENTENCES):
        ids = torch.tensor([subject.tokenizer(sentence).input_ids], device=subject.device)
        after = [condition.log_p(ids) for condition in conditions]
        ((unsteered,), *_) = after
        for i, draws in enumerate(after):
            found[0, i, place] = np.mean([-log_p.gather(1, ids[0, 1:, None]).mean().item() for log_p in draws])
            kl = [(unsteered.exp() * (unsteered - log_p)).sum(1).mean().item() for log_p in draws]
            found[1, i, place] = np.mean(kl)
    groups, rows = np.arange(len(SENTENCES)), []
    for measure, values in zip(("english_loss", "english_kl"), found, strict=True):
        for condition, of_sentences in zip(conditions, values, strict=True):
            if measure == "english_loss" or condition.method != "none":
                about = {name: getattr(condition, name) for name in ("method", "control", "target")}
                rows.append(about | {"measure": measure} | intervals.mean(of_sentences, groups)._asdict())
    return pd.DataFrame(rows)
