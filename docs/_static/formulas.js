// Sets every formula of the page with KaTeX. A line may break after a relation, but p(x | z) stays together.
const MACROS = { "\\mid": "{\\mathchoice{\\;\\vert\\;}{\\;\\vert\\;}{\\vert}{\\vert}}" };
document.addEventListener("DOMContentLoaded", () => {
  for (const element of document.querySelectorAll(".formula")) {
    katex.render(element.textContent, element, {
      displayMode: element.tagName === "DIV",
      throwOnError: false,
      macros: { ...MACROS },
    });
  }
});
