"""Clean and corrupted prompts with their answers, for patching studies of any model.

Every set is made for one model: its answers are single tokens there, its pairs align token by
token, and for the embedded model every word is one that it learned.
"""

from interp.prompts.exchanges import colour_swapped as colour_swapped
from interp.prompts.exchanges import other_words as other_words
from interp.prompts.exchanges import question_exchanged as question_exchanged
from interp.prompts.exchanges import things_exchanged as things_exchanged
from interp.prompts.exchanges import words_redrawn as words_redrawn
from interp.prompts.files import from_file as from_file
from interp.prompts.prompt_pairs import PromptPair as PromptPair
from interp.prompts.prompt_pairs import PromptPairs as PromptPairs
from interp.prompts.prompt_pairs import check as check
from interp.prompts.prompt_pairs import unknown_words as unknown_words
from interp.prompts.references import everyday_words as everyday_words
from interp.prompts.references import other_sentences as other_sentences
from interp.prompts.references import shuffled as shuffled
from interp.prompts.studies import colour_binding as colour_binding
from interp.prompts.studies import gendered_pronoun as gendered_pronoun
from interp.prompts.studies import induction as induction
from interp.prompts.studies import ioi as ioi
from interp.prompts.years import greater_than as greater_than
from interp.prompts.years import year_prob_diff as year_prob_diff
