// The search puts pages that explain before the reference of the API, and its listed sources last.
var Scorer = {
  score: function (result) {
    const [page, , , , score] = result;
    if (page.startsWith("_modules/")) return score - 100;
    if (page.startsWith("build/api/")) return score - 40;
    return score;
  },
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
